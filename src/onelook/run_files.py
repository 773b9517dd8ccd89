"""The names of the files in the folder of a training run."""

RECIPE = "recipe.yaml"
CHECKPOINT = "state.pt"
BEST_WEIGHTS = "best.safetensors"
MODEL_CARD = "MODEL_CARD.md"
LAST_WEIGHTS = "last.safetensors"
METRICS = "metrics.csv"
LOG = "train.log"
REPORT = "report.html"
FIRST_BATCH = "first_batch.jpg"
TEACHER = "teacher.json"
SUSPICIOUS = "suspicious.json"
SPLIT = "split"  # a folder: the lists of a training that divides its images itself, and the data set of these
