"""The quickstart's language and the training of its teacher, which lie in the example's folder."""

import language
import train_teacher

__all__ = ["language", "train_teacher"]
