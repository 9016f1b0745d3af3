"""Measures the front door: what gateway, transport and HTTP cost beside bare servers, and who waits for whom."""
