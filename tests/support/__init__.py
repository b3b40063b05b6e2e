"""What several folders of tests share: processes, servers, models, stores and runs made for them."""
