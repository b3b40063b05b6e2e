"""Variants of questions whose right answer is known without a judge, and pairs of prompts."""
