"""Cuts a model that is in memory, and gives cut models to people who train and run them by their own code."""
