"""The training of a student, in processes of its own: nothing heavy is imported by the command that asks."""
