"""`python -m kvstored`."""

from kvstored.main import main

if __name__ == "__main__":
    main()
