"""The truth about adapters: contents by digest, manifests of versions, one writer; a folder or an object store."""
