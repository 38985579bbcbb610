"""The quality benchmark: a simulated serial run, several ways to mask bad pixels, judged by truth and by a real peak finder."""
