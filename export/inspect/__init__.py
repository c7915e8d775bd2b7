"""What an exported file contains, computes and costs; hostile files are opened in a sandbox."""
