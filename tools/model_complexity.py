"""The same as ``python -m mmrest complexity``; see mmrest/tools/complexity.py."""

from mmrest.tools.complexity import main

if __name__ == '__main__':
    main()
