"""What the pages have besides text: charts of measured results, drawings, docstrings."""
