"""The polar factor U Vᴴ of a matrix, or of a stack of them: arithmetic alone."""
