"""The order of the examples in the gallery."""

ORDER = (
    "digits_few_labels",
    "photo_folder",
    "choosing_views",
    "grey_images",
    "semi_supervised",
    "watching",
    "tuning_a_pipeline",
    "model_selection",
    "clustering_retrieval_maps",
    "vectors",
    "cifar10",
    "continuing",
    "exporting",
)


class TeachingOrder:
    """Sorts the files of a folder: what everyone needs first."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, filename):
        """Return the place of an example; one that is not in the list is an error."""
        return ORDER.index(filename.removeprefix("plot_").removesuffix(".py"))
