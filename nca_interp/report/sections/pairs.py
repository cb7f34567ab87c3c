def section(tables):
    return ()
