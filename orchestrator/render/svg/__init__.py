"""Pictures as SVG, without scripts: scales and ticks, a chart of lines, bars with intervals, spans of time.

Every picture has a title and a description that a screen reader reads. Series differ in dashes and markers as well as
in colour; colours are the page's, so that they follow light and dark.
"""
