"""Other projects that turnout works in; each module imports its library itself."""
