"""What a model's answer will be worth, said before it is asked: learned from outcomes, kept as data.

Pure. numpy is imported by the modules of this room alone, and this room by nobody who does not need it.
"""
