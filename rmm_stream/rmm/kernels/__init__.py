"""The inner loops: free functions over C-contiguous arrays, serial, compiled once and cached.

Each has a namesake in tests/naive.py that nobody could doubt. numba lives here and nowhere else.
"""
