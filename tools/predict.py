"""The same as ``python -m mmrest predict``; see mmrest/tools/predict.py."""

from mmrest.tools.predict import main

if __name__ == '__main__':
    main()
