"""The error of every operator of a quantised file against the float file of the same model."""
