"""What numbers say and what they do not: intervals, paired tests, sequential tests, off-policy estimates.

Pure: chance is a numpy Generator, handed in. numpy and scipy are imported by the modules of this room alone,
never at start.
"""
