"""The `ontap` driver: volumes of one SVM of a NetApp filer, over ONTAP's REST interface."""
