"""`mcd reproduce`: the paper's evidence, one module an experiment. `command.py` is the command itself."""
