"""The storm: mail keeps coming and going while everything it passes through is killed, cut and stalled.

`python -m tests.failure.storm` (`make failure`) is the long form, `tests/failure/test_storm.py` the short
one. What happens is decided by a seed, so a storm can be had again; when it happens is up to the machine.
"""
