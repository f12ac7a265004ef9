"""A policy behind a websocket, for robots that think elsewhere; the client loads no torch."""
