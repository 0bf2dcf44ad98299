"""Is this installation right, are these samples right?"""
