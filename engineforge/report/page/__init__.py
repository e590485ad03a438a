"""All that is known of a project as one page: data, then HTML. Pure: reads no store, no clock."""
