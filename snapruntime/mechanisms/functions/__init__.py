"""Functions on disk: a database of what there is, and folders of code beside it."""
