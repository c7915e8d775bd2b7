"""What single commands do: predict, gate, distill, doctor."""
