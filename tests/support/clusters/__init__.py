"""Clusters that are rendered and never brought up."""
