"""Files that people really have, a folder of `shared/cases` each."""
