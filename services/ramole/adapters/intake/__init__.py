"""How an adapter comes in: received or fetched, admitted, staged."""
