"""Exported files at work in the programs that people run them with, each in a process of its own."""
