# GNU General Public License v3.0+ (see COPYING)
"""The publisher of the rates catalogs that the collection ships."""
