"""Parts of `students.py`."""
