"""The perimeter: what a request may reach, decided by what is found in it."""
