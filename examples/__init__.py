"""Five tasks to train on a file of one's own: ``python -m fastrnn train TASK``, and one small trainer for all."""
