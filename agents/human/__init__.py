"""The window through which a person walks in an imagined world.

pygame is imported in this room only, and only when a window opens.
"""
