"""This study: recipes, runs, results, Table 1, the command line."""
