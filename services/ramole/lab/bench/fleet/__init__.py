"""Placement and scaling of many replicas, in simulated time, by the policies that serve."""
