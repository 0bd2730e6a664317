"""The layer as a module of a framework."""
