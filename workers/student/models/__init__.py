"""What a student is made from, and the module that is trained."""
