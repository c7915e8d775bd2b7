"""Search methods: which units of a model to remove so that it meets a budget."""
