"""The same as ``python -m mmrest export``; see mmrest/tools/export.py."""

from mmrest.tools.export import main

if __name__ == '__main__':
    main()
