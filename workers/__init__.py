"""What runs on the cluster's nodes, by stage of the data flow: teacher -> targets -> student -> evaluation -> export.

`teacher` and `student` never import each other: the target store is all that they share.
"""
