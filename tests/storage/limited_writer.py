"""A writer process whose files must stay below a megabyte."""

import resource

from kvstore.storage.writer_process import main

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    main()
