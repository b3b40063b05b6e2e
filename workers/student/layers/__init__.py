"""What is done to the layers of a decoder before it is trained."""
