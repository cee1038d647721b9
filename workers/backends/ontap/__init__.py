"""The `ontap` driver: volumes of one SVM of a NetApp filer, over ONTAP's REST interface."""

from workers.backends.ontap.driver import OntapDriver

__all__ = ["OntapDriver"]
