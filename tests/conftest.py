"""What every test shares: shapes and types of the package are checked, nothing reaches the network,
no window opens.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Before anything imports desta_lab: from here on each of its functions checks its arguments' types
# and shapes.
install_import_hook("desta_lab", "beartype.beartype")
