"""Charts, as PNG and as SVG for pages."""
