MATH: dict = {}
