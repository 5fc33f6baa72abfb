"""One reader per layout that people have. Each gives a table of rows first, and then the pictures one by one."""
