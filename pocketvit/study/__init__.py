"""Studies: several methods on the same models, data and seeds, made under equal conditions and compared."""
