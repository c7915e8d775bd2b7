"""Machines that run Python: the measuring program is sent there and run there."""
